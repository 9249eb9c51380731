"""The process that `calibrate_apart` starts."""

from gtl.planning.calibration import main

main()
