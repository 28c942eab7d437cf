"""Components in actors of Ray, on whatever machines a cluster has."""
