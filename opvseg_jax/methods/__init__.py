"""One folder for each method: how the pieces are put together, in the order of the data flow."""
