"""Where groups come from: files of rows, the `datasets` library, generated puzzles. `plugin` is the menu."""
