"""The screens: the dashboard, a worker's details, help, and the question before what destroys."""
