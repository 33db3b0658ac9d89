// swift-tools-version: 6.1
import PackageDescription

// One row per room, in the order in which data flows; a room may use only rooms above it.
let settings: [SwiftSetting] = [.swiftLanguageMode(.v6)]

func room(_ name: String, uses: [String] = [], products: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: uses.map { .init(stringLiteral: $0) } + products, swiftSettings: settings)
}

func program(_ name: String, uses: [String], products: [Target.Dependency] = []) -> Target {
    .executableTarget(
        name: name, dependencies: uses.map { .init(stringLiteral: $0) } + products, swiftSettings: settings)
}

func tests(_ name: String, uses: [String], products: [Target.Dependency] = []) -> Target {
    .testTarget(
        name: name, dependencies: uses.map { .init(stringLiteral: $0) } + products, swiftSettings: settings)
}

let arguments = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")

let package = Package(
    name: "mobilityd",
    products: [
        .library(name: "MobilityClient", targets: ["MobilityClient"]),
        .library(name: "Lab", targets: ["Lab"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
    ],
    targets: [
        .systemLibrary(name: "CSystemd", pkgConfig: "libsystemd", providers: [.apt(["libsystemd-dev"])]),
        .systemLibrary(name: "CNetlink", pkgConfig: "libnl-route-3.0", providers: [.apt(["libnl-route-3-dev"])]),
        .systemLibrary(name: "CDBus", pkgConfig: "dbus-1", providers: [.apt(["libdbus-1-dev"])]),
        .systemLibrary(name: "CBPF", pkgConfig: "libbpf", providers: [.apt(["libbpf-dev"])]),
        .systemLibrary(name: "COpenSSL", pkgConfig: "openssl", providers: [.apt(["libssl-dev"])]),

        .target(name: "CKernel"),
        room("Kernel", uses: ["CKernel"]),
        room("Journal", uses: ["CSystemd"], products: [logging]),
        room("Units", uses: ["Kernel", "CSystemd"]),
        room("NameCheck", uses: ["Kernel", "CSystemd"]),
        room("Clocks", uses: ["Kernel"]),
        .target(name: "CPrograms", exclude: ["bpf"]),
        room("Addressing", uses: ["Kernel", "CNetlink", "CBPF", "CPrograms"]),
        room("ProcessImage"),
        room("KernelCapture", uses: ["Kernel", "CBPF", "CPrograms", "ProcessImage"]),
        room("Resources", uses: ["Kernel", "KernelCapture", "ProcessImage"]),
        room("Capture", uses: ["Resources", "Clocks"]),
        .target(name: "CEmbryo"),
        room("Restore", uses: ["Resources", "Clocks", "CEmbryo"]),
        room("Peering", uses: ["Kernel", "COpenSSL"]),
        room(
            "Migration", uses: ["Capture", "Restore", "Addressing", "Peering", "Units", "NameCheck"],
            products: [logging]),
        room("BusContract"),
        .target(name: "CBusService"),
        room(
            "BusService", uses: ["Kernel", "Journal", "BusContract", "CBusService", "CSystemd"],
            products: [logging]),
        room("MobilityClient", uses: ["BusContract", "CDBus"]),

        room("NodeManager", uses: ["Migration", "BusService", "BusContract"], products: [logging]),
        program(
            "mobilityd", uses: ["NodeManager", "BusService", "BusContract", "Journal", "Kernel"],
            products: [arguments, logging]),
        program("mobilityctl", uses: ["MobilityClient", "BusContract", "Peering"], products: [arguments]),
        program("mobility-generator", uses: ["Units"]),
        // Static: inside a unit's sandbox (NoExecPaths=) only the program itself need be executable.
        .executableTarget(
            name: "mobility-arrive",
            swiftSettings: settings + [.unsafeFlags(["-static-executable"])],
            linkerSettings: [.unsafeFlags(["-static-executable"])]),

        .target(name: "Lab", dependencies: ["Kernel", "CKernel"], path: "Tests/Lab", swiftSettings: settings),
        program("lab", uses: ["Lab"], products: [arguments]),
        program("labload", uses: ["Kernel", "CKernel"]),
        program("demo", uses: ["Lab", "Kernel"], products: [arguments]),
        program("measure", uses: ["Lab", "Kernel"], products: [arguments]),
        program("faults", uses: ["Lab", "Kernel", "Migration"], products: [arguments]),

        tests("KernelTests", uses: ["Kernel"]),
        tests("ProcessImageTests", uses: ["ProcessImage"]),
        tests("UnitsTests", uses: ["Units"]),
        tests("AddressingTests", uses: ["Addressing", "Kernel", "CKernel"]),
        tests("PeeringTests", uses: ["Peering"]),
        tests(
            "BusServiceTests",
            uses: [
                "BusService", "BusContract", "CSystemd", "Journal", "Kernel", "MobilityClient", "mobilityctl",
                "mobilityd",
            ],
            products: [logging]),
        tests("MobilityClientTests", uses: ["MobilityClient", "BusContract", "CDBus"]),
        tests("NameCheckTests", uses: ["NameCheck"]),
        tests("KernelCaptureTests", uses: ["KernelCapture"]),
        .testTarget(
            name: "CaptureTests", dependencies: ["Capture"], exclude: ["Programs"], swiftSettings: settings),
        tests("RestoreTests", uses: ["Restore", "Resources", "ProcessImage", "Kernel", "CKernel"]),
        tests("MigrationTests", uses: ["Migration", "Kernel"]),
        tests("LabTests", uses: ["Lab"]),
        tests("ResourcesTests", uses: ["Resources"]),
    ]
)
