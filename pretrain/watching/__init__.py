"""What a run measures of itself while it trains, and where that goes; `pretrain/watch.py` joins the parts."""
