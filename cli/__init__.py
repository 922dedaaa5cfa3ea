"""The people's door: `orderflow <noun> <verb>`; the only place that wires everything together."""
