"""Work by hand: recordings, the demonstration on a simulated plant, dashboards, installation."""
