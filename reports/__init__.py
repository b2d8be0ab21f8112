"""Tables, plots and verdicts, built from run directories alone. Imports no torch."""
