"""What plugins share that show texts to models: quotations, conversations as tokens, constitutions. No plugin."""
