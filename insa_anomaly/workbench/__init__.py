"""What people run by hand: recorded files through a real broker, and the demonstration on a simulated plant."""
