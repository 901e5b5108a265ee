"""What turns an instance into a machine, and stays with it: boot, the agent, and the keeper's process."""
