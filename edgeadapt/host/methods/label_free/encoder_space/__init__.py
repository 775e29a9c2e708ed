"""Label-free methods that change constants of the encoder, and what they share: passes over a
memory of inputs, entropy, the Hebbian rule. They need batch-norms that we can write.
"""
