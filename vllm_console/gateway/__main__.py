"""`python -m vllm_console.gateway DIR`: the gateway's process."""

from vllm_console.gateway.process import main

raise SystemExit(main())
