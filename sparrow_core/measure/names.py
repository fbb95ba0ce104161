"""Names of the decode modes that belong to no drafter, as tables and result files hold them."""

AUTOREGRESSIVE = "autoregressive"  # our autoregressive loop, the baseline of every speedup
GOVERNOR = "governor"  # our engine, the draft's shape chosen by the governor
LIBRARY = "transformers generate"
LIBRARY_LOOKUP = "transformers prompt lookup"
