"""The few images that the tests of the service ask for."""

ROWS = """image,caption,class,year
beach/two dogs.png,two dogs on a <b>beach</b>,beach,2010
beach/dogs.png,dogs on the beach,beach,2012
airport/plane.png,a plane at the airport,airport,2014
river.png,a boat on a river,Été,2016
river.png,a white boat,Été,2016
star.png,"a red star",sign,2018
"""
SIZES = {
    "beach/two dogs.png": (640, 480),
    "beach/dogs.png": (300, 500),
    "airport/plane.png": (900, 200),
    "river.png": (48, 40),
    "star.png": (120, 120),
}
