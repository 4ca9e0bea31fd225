"""`python -m vllm_console` is `vllm-console`."""

from vllm_console.cli.main import main

raise SystemExit(main())
