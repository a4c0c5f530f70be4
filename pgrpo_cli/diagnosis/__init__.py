"""Why a run does not learn: rules over the records of a run. Each finding says what to change."""
