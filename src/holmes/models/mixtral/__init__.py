"""Mixtral: a Llama whose MLP is a mixture of experts. Described and plain; planned, not trained."""
