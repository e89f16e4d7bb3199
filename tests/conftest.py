"""For all tests: signals as a terminal has them.

A runner in the background (nohup, cron) starts us with SIGINT ignored, and every process that we
start would inherit that: no test of ^C could pass.
"""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
