"""A network behind an API: what it answers, what that costs, and who asked. `service.py` beside it is its client.

Web frameworks are imported here alone, and only where a server starts: the extra `service` installs them.
"""
