"""The eight tasks of ``sbibm`` as models in both languages, and its observations and reference posteriors."""
