"""Who owns which memory: the log of claims, the account, and the look-up by address."""
