import Testing

@testable import Addressing

@Suite struct VirtualAddressTests {
    @Test(arguments: ["10.10.10.11/24", "fd00::11/64", "0.0.0.0/0", "::/0", "1.2.3.4/32"])
    func parsesAndPrints(_ text: String) throws {
        #expect(try #require(VirtualAddress(text: text)).description == text)
    }

    @Test(arguments: ["", "/", "10.0.0.1/33", "fd00::1/129", "10.0.0/8", "10.0.0.1/", "10.0.0.1/-1", "1.2.3.4/+8", "x"])
    func refuses(_ text: String) { #expect(VirtualAddress(text: text) == nil) }

    @Test func withoutPrefixStandsAlone() {
        #expect(VirtualAddress(text: "10.0.0.1")?.prefix == 32)
        #expect(VirtualAddress(text: "fd00::1")?.prefix == 128)
    }

    @Test func comparesPrefixesBitByBit() throws {
        let address = try #require(VirtualAddress(text: "10.10.10.11"))
        #expect(address.sharesPrefix(with: [10, 10, 10, 200], bits: 24))
        #expect(address.sharesPrefix(with: [10, 10, 8, 0], bits: 22))
        #expect(!address.sharesPrefix(with: [10, 10, 8, 0], bits: 23))
        #expect(address.sharesPrefix(with: [1, 2, 3, 4], bits: 0))
        #expect(!address.sharesPrefix(with: [10, 10, 10, 10], bits: 32))
    }

    @Test func refusesFramesThatAreNoPacketForTheAddress() throws {
        let address = try #require(VirtualAddress(text: "10.9.0.11"))
        var good = [UInt8](repeating: 0, count: 10 + 14 + 40)
        good[10 + 12] = 8
        good[24] = 0x45
        good.replaceSubrange(40..<44, with: address.bytes)
        #expect(HeldFrame(bytes: good).defect(for: address) == nil)
        for (offset, value): (Int, UInt8) in [(22, 9), (24, 0x60), (43, 12), (1, 77), (1, 1), (3, 200)] {
            var bad = good
            bad[offset] = value
            #expect(HeldFrame(bytes: bad).defect(for: address) != nil, "byte \(offset)")
        }
        var sum = good
        sum[0] = 1
        sum[6] = 53
        #expect(HeldFrame(bytes: sum).defect(for: address) != nil)
        #expect(HeldFrame(bytes: Array(good.prefix(43))).defect(for: address) != nil)
        let long = good + [UInt8](repeating: 0, count: HeldFrame.maximumLength)
        #expect(HeldFrame(bytes: long).defect(for: address) != nil)
        let other = try #require(VirtualAddress(text: "fd09::11"))
        #expect(HeldFrame(bytes: good).defect(for: other) != nil)
    }
}
