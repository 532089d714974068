"""Alerts under way: the dispatcher decides, couriers deliver, silence is noticed."""
