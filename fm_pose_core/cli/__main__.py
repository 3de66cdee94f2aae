"""`python -m fm_pose_core.cli`, and `torchrun … -m fm_pose_core.cli`."""

import sys

from fm_pose_core.cli import main

sys.exit(main())
