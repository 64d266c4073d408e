"""What the pictures of reproduce/ share."""


def pyplot():
    """matplotlib.pyplot, set up to write the same SVG every time; None, and a line on the screen, without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib (pip install -r requirements.txt): the picture is left out")
        return None
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "fixed"
    from matplotlib import pyplot as plt

    return plt
