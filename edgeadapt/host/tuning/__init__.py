"""Trains a few thousand numbers inside a pretrained encoder, chosen under a budget.

What lives here turns weights and a few numbers into weights, before anything is exported. It may
use networks, data and the trainer; it knows nothing of bundles, devices and learners, and nothing
in a bundle knows that its encoder was tuned. What depends on the sample is no delta and does not
belong here.
"""
