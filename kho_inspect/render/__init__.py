"""How a handover looks: console (Rich), JSON, hexdump. Nothing here decides anything."""
