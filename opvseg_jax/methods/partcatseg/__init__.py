"""PartCATSeg: parts and objects share one cost volume, their combinations get another."""
