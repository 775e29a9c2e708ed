"""What a user could pick instead, for the suites that compare streams and questions."""
