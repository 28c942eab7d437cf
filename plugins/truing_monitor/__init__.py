"""Alarms for numbers that look wrong while a run goes on: the observer `preference-monitor`."""
