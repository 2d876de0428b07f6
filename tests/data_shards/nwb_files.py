"""NWB files that pynwb writes for the tests: every feature that the importer reads, in HDF5 and in Zarr."""

import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from hdmf.common import DynamicTableRegion
from hdmf_zarr.nwb import NWBZarrIO
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.behavior import Position, SpatialSeries
from pynwb.ecephys import LFP, ElectricalSeries
from pynwb.file import Subject
from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel, RoiResponseSeries

UNITS, SECONDS, LFP_RATE, FRAME_RATE = 6, 40.0, 1000.0, 10.0
generator = np.random.default_rng(3)
SPIKES = [np.sort(generator.uniform(0, SECONDS, 40 + 30 * unit)) for unit in range(UNITS)]
REGIONS = ["CA1", "CA1", "CA3", "DG"]
QUALITY = ["good", "mua", "good", "good", "noise", "good"]
LFP_VALUES = generator.integers(-1000, 1000, (int(SECONDS * LFP_RATE), 3)).astype(np.int16)
CONVERSION, CHANNEL_CONVERSION, OFFSET = 2e-6, np.array([1.0, 2.0, 0.5]), 1e-3
DFF = generator.normal(size=(int(SECONDS * FRAME_RATE), 4)).astype(np.float32)
TRIAL_STARTS = np.arange(0.5, 38.0, 2.0)
POSITION_TIMES = np.arange(0, SECONDS, 1 / 60)
POSITION = np.stack([np.sin(POSITION_TIMES), POSITION_TIMES], axis=1)


def write_nwb(path: Path, **changes: Any) -> Path:
    """Write the file as HDF5, or as Zarr where the path ends in .zarr; `changes` go to the file's metadata."""
    metadata = {
        "session_description": "every feature",
        "identifier": "lab/7 a",
        "session_start_time": datetime(1900, 1, 1, tzinfo=UTC),
        "session_id": "2021.03.04",
        "subject": Subject(subject_id="mouse 12", species="Mus musculus"),
    }
    io = NWBZarrIO if path.suffix == ".zarr" else NWBHDF5IO
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # placeholder dates and the like, which are meant
        file = NWBFile(**(metadata | changes))
        for add in (_add_units, _add_intervals, _add_behaviour, _add_imaging):
            add(file)
        with io(str(path), mode="w") as handle:
            handle.write(file)
    return path


def _add_units(file: NWBFile) -> None:
    device = file.create_device(name="probe")
    group = file.create_electrode_group(name="shank0", description="first", location="hippocampus", device=device)
    file.add_electrode_column("depth", "in um")
    for row, region in enumerate(REGIONS):
        file.add_electrode(location=region, group=group, depth=100.0 * row)
    file.add_unit_column("quality", "label of the sorting")
    file.add_unit_column("tags", "any number of words", index=True)
    for unit, times in enumerate(SPIKES):
        file.add_unit(
            spike_times=times,
            obs_intervals=[[0.0, 15.0], [20.0, SECONDS]],
            electrodes=[unit % 4] if unit else [0, 2],
            electrode_group=group,
            quality=QUALITY[unit],
            tags=["a", "b"][: unit % 3],
        )
    electrodes = file.create_electrode_table_region([0, 1, 3], "of the LFP")
    series = ElectricalSeries(
        name="ElectricalSeries",
        data=LFP_VALUES,
        electrodes=electrodes,
        rate=LFP_RATE,
        starting_time=0.0,
        conversion=CONVERSION,
        channel_conversion=CHANNEL_CONVERSION,
        offset=OFFSET,
    )
    file.create_processing_module("ecephys", "field potentials").add(LFP(electrical_series=series))


def _add_intervals(file: NWBFile) -> None:
    file.add_trial_column("choice", "left or right")
    file.add_trial_column("correct", "1 or 0")
    for number, start in enumerate(TRIAL_STARTS):
        choice = "left" if number % 2 else "right"
        file.add_trial(start_time=start, stop_time=start + 1.0, choice=choice, correct=number % 3 > 0)
    table = file.create_time_intervals(name="rests", description="pauses")
    for start in (5.0, 25.0):
        table.add_row(start_time=start, stop_time=start + 4.0)


def _add_behaviour(file: NWBFile) -> None:
    behaviour = file.create_processing_module("behavior", "what the animal did")
    place = SpatialSeries(
        name="SpatialSeries",
        data=POSITION,
        timestamps=POSITION_TIMES,
        reference_frame="corner",
        conversion=0.01,
        offset=1.0,
    )
    behaviour.add(Position(spatial_series=place))
    # speed shares the times of the position: a link in the file
    behaviour.add(TimeSeries(name="speed", data=np.abs(np.cos(POSITION_TIMES)), unit="m/s", timestamps=place))
    contrast = TimeSeries(name="contrast", data=np.arange(400) % 5, unit="%", rate=10.0, starting_time=0.5)
    file.add_stimulus(contrast)
    licks = np.array([-1.5e9, 1.0, 2.0, 2.05, np.nan, 7.0])
    file.add_acquisition(TimeSeries(name="licks", data=np.ones(6), unit="n.a.", timestamps=licks))


def _add_imaging(file: NWBFile) -> None:
    device = file.create_device(name="scope")
    plane = file.create_imaging_plane(
        name="plane",
        optical_channel=OpticalChannel(name="green", description="g", emission_lambda=500.0),
        description="p",
        device=device,
        excitation_lambda=900.0,
        indicator="GCaMP6f",
        location="V1",
        imaging_rate=FRAME_RATE,
    )
    segmentation = ImageSegmentation()
    cells = segmentation.create_plane_segmentation(name="PlaneSegmentation", description="s", imaging_plane=plane)
    for number in range(5):
        cells.add_roi(image_mask=np.eye(4), id=11 + number)
    cells.add_column("accepted", "by hand", data=[1, 1, 0, 1, 1])
    ophys = file.create_processing_module("ophys", "imaging")
    ophys.add(segmentation)
    rois = DynamicTableRegion(name="rois", data=[0, 1, 2, 4], description="these", table=cells)
    series = RoiResponseSeries(name="RoiResponseSeries", data=DFF, rois=rois, unit="n.a.", rate=FRAME_RATE)
    ophys.add(DfOverF(roi_response_series=series))
