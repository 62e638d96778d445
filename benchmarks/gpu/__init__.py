"""The suite for one GPU, row by row (`make bench-gpu`).

models: what is run. work: what is rolled out. scoring: whether draws are right. floors, kernels, steady, peers, checks:
what is measured. ledger: the file of results. runner: which rows there are, and runs them. report: shows them.
"""
