"""Components in processes of their own."""
