"""What plugins share that ask a server: its address, requests with patience, and what answers must hold. No plugin."""
