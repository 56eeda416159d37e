"""The whole road, from drawn images to answers: `clipsearch demo`."""
