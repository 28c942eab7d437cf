"""What plugins share whose work is done elsewhere: asking a server, with patience; components, errors and messages on
their way to another process; a component around another one. No plugin."""
