"""Why a run does not learn, in plain words: rules over plain data, each with what to change."""
