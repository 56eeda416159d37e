"""The whole road, from drawn pictures to answers: `clipsearch demo`."""
