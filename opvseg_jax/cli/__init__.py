"""The `opvseg` command: flags -> one library call -> exit code."""
