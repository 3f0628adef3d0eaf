"""`make bench`: every script, one after the other."""

from bench import forecast_examples, layer_speed

if __name__ == "__main__":
    layer_speed.main()
    forecast_examples.main()
