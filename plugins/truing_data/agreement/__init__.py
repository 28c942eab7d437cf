"""What comparisons are worth: how far annotators agree, how good each is, what else decides beside quality."""
