"""What can be done, once; the command line and the API call it."""
