"""The system `ec2`: machines are instances in the user's AWS account, with nothing prepared there."""
