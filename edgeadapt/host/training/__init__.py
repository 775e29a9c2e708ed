"""The rooms of the trainer; :func:`edgeadapt.host.training.train.train` puts them together.

settings       what a run was asked for, checked, with the defaults of each optimiser
records        what an epoch and a row of the log say
schedule       the learning rate of a step
optimising     SGD, AdamW and LAMB for the parameters of a network
lamb           LAMB as a ``torch.optim.Optimizer``
precision      device, mixed precision, and deterministic kernels
parallel       one process or several: who takes which samples, and what they agree on
checkpoint     a run in one safetensors file
early_stop     the best epoch so far, and when to stop waiting for a better one
progress       lines on a terminal
log            ``metrics.csv`` and TensorBoard
out_of_memory  an allocator's failure in the words of the recipe
"""
