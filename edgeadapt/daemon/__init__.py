"""A learner as a service: sources bring samples, one loop answers them, sinks and a control
interface take what it says.
"""
