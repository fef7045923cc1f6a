"""The folder that holds `ts`; it goes onto the path of a device process whose model needs it."""
