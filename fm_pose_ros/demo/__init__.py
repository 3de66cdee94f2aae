"""`make demo`: what a camera saw, through the real nodes, over real DDS.

Each node runs as a process of its own, as on a robot, and gets a recorded sequence like a camera's: images and
camera_info at a steady pace. What it answers is compared with the truth in a table, and written down as a video, a
contact sheet and an MCAP bag.

    python -m fm_pose_ros.demo object|hand [OPTIONS]
"""
