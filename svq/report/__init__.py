"""Tables, plots and the HTML report made from a recipe's score files."""
