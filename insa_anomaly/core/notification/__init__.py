"""Events, alerts and notices; silence; the routes they take."""
