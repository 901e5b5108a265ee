"""The `ssh` system: machines on hosts that have only a sshd and a Python. `bigm.systems.ssh.system` is its class."""
