"""Many processes on one machine or more: who started us, what starts where, how ranks meet."""
