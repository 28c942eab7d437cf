"""The models that learn: causal language models of transformers, whole or through LoRA, and their optimizers.

plugin     the menu           paths   what a `path` names       loading    weights and tokenizer
encode     text to tokens     layout  groups to rows            forward    rows to log-probabilities
head       the vocabulary     step    loss to gradient          reference  answers of the reference, kept
causal     the model itself   state   checkpoints, no pickle    scratch    small models with fresh weights
"""
