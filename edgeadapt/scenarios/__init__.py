"""Made-up days for a model: conditions, orders, a refitted head to compare with. Export, demo and
benches use them; nothing here learns.
"""
