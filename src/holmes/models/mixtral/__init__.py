"""Mixtral: a Llama whose MLP is a mixture of experts. Described for planning, not trained."""
